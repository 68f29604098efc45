rule cohort:
    output:
        f"{RUNS}/cohort/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/cohort/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/cohort/{id}.tsv"
    conda:
        "../../environment.yaml"
    threads: max(1, EXECUTION.slide_workers)
    resources:
        settings=RESOLVED,
        mem_mb=2000,
        runtime=120,
    params:
        code=fingerprint("stedm.cohort"),
        data=lambda wildcards: study.plans[0].data.state(study.plans[0].slides),
    message:
        "Cohort {wildcards.cohort}: acquire and verify its slides"
    shell:
        "stedm cohort {resources.settings} --log {log}"
