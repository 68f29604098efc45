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
        nodes=on_nodes(lambda settings: settings.nodes),
        tasks=on_nodes(lambda settings: settings.devices * settings.nodes),
        tasks_per_gpu=on_nodes(lambda settings: 1),
        cpus_per_task=on_nodes(threads_of),
        mpi=on_nodes(lambda settings: "srun"),
        mem_mb=training_memory("generator"),
        disk_mb=4000,
        runtime=2880,
    params:
        code=fingerprint("stedm.generator"),
    message:
        "Generator {wildcards.id}: train the diffusion model"
    shell:
        "stedm generator {resources.settings} {wildcards.id} --log {log}"
