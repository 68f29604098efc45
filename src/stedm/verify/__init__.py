"""Does each recorded number hold, and against what? One record per table cell and kind of evidence.

===== ========================================= ==========================================
tier  what is made again                        from
===== ========================================= ==========================================
T0    the tables                                the recorded scores
T1    the scores of a segmenter                 its recorded predictions
T2    its predictions, and their scores         its recorded weights
T3    everything: its training too              the runs in ``results/runs`` of this clone
===== ========================================= ==========================================

Expected values are always those under ``results/reference/<name>``; how far a value may be from them, and why, is
recorded there too (``tolerances.csv``). Nothing is trained here: a run that is not there is "not run".
"""
