rule cohort:
    output:
        f"{RUNS}/cohort/{{id}}/{SUMS}",
    params:
        code=fingerprint("stedm.cohort"),
        data=lambda wildcards: plan.data.state(plan.slides),
    log:
        "results/logs/{cohort}/cohort/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/cohort/{id}.tsv"
    threads: max(1, EXECUTION.slide_workers)
    resources:
        mem_mb=2000,
        runtime=120,
    conda:
        "../../environment.yaml"
    message:
        "Cohort {wildcards.cohort}: acquire and verify its slides"
    shell:
        "stedm cohort {RESOLVED} --log {log}"
