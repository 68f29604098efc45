rule autoencoder:
    input:
        inputs("autoencoder"),
    output:
        f"{RUNS}/autoencoder/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/autoencoder/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/autoencoder/{id}.tsv"
    priority: 30
    conda:
        "../../environment.yaml"
    threads: execution("autoencoder", threads_of)
    resources:
        settings=resolved("autoencoder"),
        gpu=execution("autoencoder", gpus),
        mem_mb=training_memory("autoencoder"),
        disk_mb=2000,
        runtime=1440,
    params:
        code=fingerprint("stedm.autoencoder"),
    message:
        "Autoencoder {wildcards.id}: train the first stage on the cohort's tiles"
    shell:
        "stedm autoencoder {resources.settings} {wildcards.id} --log {log}"
