rule synthetic:
    input:
        inputs("synthetic"),
    output:
        f"{RUNS}/synthetic/{{id}}/part-{{part}}-of-{{parts}}/{SUMS}",
    log:
        "results/logs/{cohort}/synthetic/{id}-{part}-of-{parts}.log",
    benchmark:
        "results/benchmarks/{cohort}/synthetic/{id}-{part}-of-{parts}.tsv"
    priority: 10
    conda:
        "../../environment.yaml"
    threads: execution("synthetic", synthetic_threads)
    resources:
        settings=resolved("synthetic"),
        gpu=execution("synthetic", gpus),
        mem_mb=training_memory("synthetic"),
        disk_mb=4000,
        runtime=1440,
    params:
        code=fingerprint("stedm.synthetic"),
    message:
        "Synthetic {wildcards.id}: draw labelled images, part {wildcards.part} of {wildcards.parts}"
    shell:
        "stedm synthetic {resources.settings} {wildcards.id} --part {wildcards.part} --log {log}"


# Colours are transferred on the processor, by one process.
use rule synthetic as transferred with:
    wildcard_constraints:
        id=r"k\d+-s\d+-transferred-[a-z0-9-]+",
    threads: 1
    resources:
        settings=resolved("synthetic"),
        mem_mb=4000,
        disk_mb=4000,
        runtime=240,
    message:
        "Transferred {wildcards.id}: labelled images in other colours, part {wildcards.part} of {wildcards.parts}"


ruleorder: transferred > synthetic
