"""An autoencoder trained on the tiles of a cohort: the generator's first stage where no published one is at hand."""
