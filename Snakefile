# STEDM-workflow: from slides to tables, figures and claims. Rules are in workflow/rules, one file a stage.
from snakemake.utils import min_version

min_version("9.11")


# A run is one YAML. Snakemake would merge the one named here with one given by --configfile.
if not workflow.overwrite_configfiles:

    configfile: "config/demo.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/tiles.smk"
include: "workflow/rules/autoencoder.smk"
include: "workflow/rules/generator.smk"
include: "workflow/rules/synthetic.smk"
include: "workflow/rules/segmenter.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/verify.smk"


report: "workflow/report/workflow.rst"


rule all:
    default_target: True
    input:
        expand(rules.report.output, name=NAMES),


rule cut:
    input:
        [path for study in studies.all for path in sums(study.tiles)],


rule search:
    input:
        expand(rules.colour_search.output, name=NAMES),
