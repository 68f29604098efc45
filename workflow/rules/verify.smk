rule verify:
    input:
        rules.report.output,
    log:
        f"results/logs/{settings.name}/verify.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=RESOLVED,
        mem_mb=2000,
        runtime=30,
    message:
        "Verify {settings.name}: compare its results with the recorded ones, cell by cell"
    shell:
        "stedm verify {resources.settings} --log {log}"


# What a reviewer can do in minutes: two small segmenters are trained again, everything else is as recorded.
rule reviewer:
    input:
        sums(study.tiles),
        [path for run in study.reviewed for path in sums(run)],
    log:
        f"results/logs/{settings.name}/reviewer.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=RESOLVED,
        mem_mb=2000,
        runtime=30,
    message:
        "Review: the recorded results, cell by cell"
    shell:
        "stedm report {resources.settings} --recorded --log {log} && stedm verify --all --log {log}"
