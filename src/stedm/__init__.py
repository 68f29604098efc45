"""STEDM-workflow: Style-Extracting Diffusion Models, from slides to tables, figures and claims."""

__version__ = "0.1.0"
