rule generator:
    input:
        inputs("generator"),
    output:
        f"{RUNS}/generator/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/generator/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/generator/{id}.tsv"
    priority: 20
    conda:
        "../../environment.yaml"
    threads: execution("generator", training_threads)
    resources:
        settings=resolved("generator"),
        gpu=execution("generator", training_gpus),
        mem_mb=4000,
        disk_mb=4000,
        runtime=2880,
    params:
        code=fingerprint("stedm.generator"),
    message:
        "Generator {wildcards.id}: train the diffusion model"
    shell:
        "stedm generator {resources.settings} {wildcards.id} --log {log}"
