"""From predictions to numbers: counted pixels, IoU and Dice, and what they say about the claim.

Kept free of imports: `stedm.scores.count` runs in jobs that need neither pandas nor scipy. Import
`stedm.scores.metrics` and `stedm.scores.statistics` by name.
"""
