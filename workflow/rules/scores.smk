rule scores:
    input:
        inputs("scores"),
    output:
        f"{RUNS}/scores/{{id}}/{SUMS}",
    params:
        code=fingerprint("stedm.scores.count"),
    log:
        "results/logs/{cohort}/scores/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/scores/{id}.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    conda:
        "../../environment.yaml"
    message:
        "Scores {wildcards.id}: count predictions against labels"
    shell:
        "stedm scores {RESOLVED} {wildcards.id} --log {log}"
