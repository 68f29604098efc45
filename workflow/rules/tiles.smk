rule tiles:
    input:
        inputs("tiles"),
    output:
        f"{RUNS}/tiles/{{id}}/{SUMS}",
    log:
        "results/logs/{cohort}/tiles/{id}.log",
    benchmark:
        "results/benchmarks/{cohort}/tiles/{id}.tsv"
    conda:
        "../../environment.yaml"
    threads: execution("tiles", slide_workers)
    resources:
        settings=resolved("tiles"),
        mem_mb=4000,
        runtime=600,
    params:
        code=fingerprint("stedm.tiles"),
    message:
        "Tiles of cohort {wildcards.cohort}: cut every slide once"
    shell:
        "stedm tiles {resources.settings} --log {log}"
