rule segmenter:
    input:
        inputs("segmenter"),
    output:
        f"{RUNS}/segmenter/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/segmenter/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/segmenter/{id}.tsv"
    conda:
        "../../environment.yaml"
    threads: execution("segmenter", threads_of)
    resources:
        settings=resolved("segmenter"),
        gpu=execution("segmenter", gpus),
        mem_mb=training_memory("segmenter"),
        disk_mb=1000,
        runtime=1440,
    params:
        code=fingerprint("stedm.segmenter"),
    message:
        "Segmenter {wildcards.id}: train, and predict the test patients"
    shell:
        "stedm segmenter {resources.settings} {wildcards.id} --log {log}"
