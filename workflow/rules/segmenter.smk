rule segmenter:
    input:
        inputs("segmenter"),
    output:
        f"{RUNS}/segmenter/{{id}}/{SUMS}",
    params:
        code=fingerprint("stedm.segmenter"),
    log:
        "results/logs/{cohort}/segmenter/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/segmenter/{id}.tsv"
    threads: EXECUTION.threads
    resources:
        gpu=gpus(),
        mem_mb=4000,
        runtime=1440,
    conda:
        "../../environment.yaml"
    message:
        "Segmenter {wildcards.id}: train, and predict the test patients"
    shell:
        "stedm segmenter {RESOLVED} {wildcards.id} --log {log}"
