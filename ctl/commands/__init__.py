"""One module per verb or noun; `cloudless.ctl.cli` says which holds what."""
