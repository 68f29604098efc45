rule synthetic:
    input:
        inputs("synthetic"),
    output:
        f"{RUNS}/synthetic/{{id}}/part-{{part}}-of-{{parts}}/{SUMS}",
    params:
        code=fingerprint("stedm.synthetic"),
    log:
        "results/logs/{cohort}/synthetic/{id}-{part}-of-{parts}.log",
    benchmark:
        "results/benchmarks/{cohort}/synthetic/{id}-{part}-of-{parts}.tsv"
    threads: EXECUTION.threads * max(1, EXECUTION.synthetic_workers)
    priority: 10
    resources:
        gpu=gpus(),
        mem_mb=4000,
        runtime=1440,
    conda:
        "../../environment.yaml"
    message:
        "Synthetic {wildcards.id}: draw labelled images, part {wildcards.part} of {wildcards.parts}"
    shell:
        "stedm synthetic {RESOLVED} {wildcards.id} --part {wildcards.part} --log {log}"
