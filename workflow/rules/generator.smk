rule generator:
    input:
        inputs("generator"),
    output:
        f"{RUNS}/generator/{{id}}/{SUMS}",
    params:
        code=fingerprint("stedm.generator"),
    log:
        "results/logs/{cohort}/generator/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/generator/{id}.tsv"
    threads: EXECUTION.threads
    priority: 20
    resources:
        gpu=gpus(),
        mem_mb=4000,
        runtime=2880,
    conda:
        "../../environment.yaml"
    message:
        "Generator {wildcards.id}: train the diffusion model"
    shell:
        "stedm generator {RESOLVED} {wildcards.id} --log {log}"
