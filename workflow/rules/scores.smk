rule scores:
    input:
        inputs("scores"),
    output:
        f"{RUNS}/scores/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/scores/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/scores/{id}.tsv"
    conda:
        "../../environment.yaml"
    resources:
        settings=resolved("scores"),
        mem_mb=2000,
        disk_mb=10,
        runtime=60,
    params:
        code=[fingerprint("stedm.scores.count"), fingerprint("stedm.scores.overviews")],
    message:
        "Scores {wildcards.id}: count predictions against labels"
    shell:
        "stedm scores {resources.settings} {wildcards.id} --log {log}"
