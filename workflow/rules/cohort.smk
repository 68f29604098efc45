rule cohort:
    output:
        f"{RUNS}/cohort/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/cohort/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/cohort/{id}.tsv"
    conda:
        "../../environment.yaml"
    threads: execution("cohort", slide_workers)
    resources:
        settings=resolved("cohort"),
        mem_mb=2000,
        runtime=120,
    params:
        code=fingerprint("stedm.cohort"),
        data=lambda wildcards: studies.having("cohort", wildcards.id).data_state,
    message:
        "Cohort {wildcards.cohort}: acquire and verify its slides"
    shell:
        "stedm cohort {resources.settings} --log {log}"
