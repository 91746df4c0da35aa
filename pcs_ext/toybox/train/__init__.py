"""How the models of toybox are made: `python -m pcs_ext.toybox.train STAGE`. Every stage resumes after a kill."""
