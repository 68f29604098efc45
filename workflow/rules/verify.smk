# Of the first configuration, where several are run at once; `stedm verify CONFIG` does each.
FIRST = studies.all[0]


rule verify:
    input:
        f"results/{FIRST.config.name}/report.html",
    log:
        f"results/logs/{FIRST.config.name}/verify.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=str(FIRST.view / "config.yaml"),
        mem_mb=2000,
        runtime=30,
    message:
        "Verify {FIRST.config.name}: compare its results with the recorded ones, cell by cell"
    shell:
        "stedm verify {resources.settings} --log {log}"


# What a reviewer can do in minutes: two small segmenters are trained again, everything else is as recorded.
rule reviewer:
    input:
        sums(FIRST.tiles),
        [path for run in FIRST.reviewed for path in sums(run)],
    log:
        f"results/logs/{FIRST.config.name}/reviewer.log",
    conda:
        "../../environment.yaml"
    resources:
        settings=str(FIRST.view / "config.yaml"),
        mem_mb=2000,
        runtime=30,
    message:
        "Review: the recorded results, cell by cell"
    shell:
        "stedm report {resources.settings} --recorded --log {log} && stedm verify --all --log {log}"
