"""Changes to LiteLLM in memory: one file a subject, each patch with its reason, its tests and its end.

Why no library and no fork: LiteLLM has no setting or callback for any of them; a fork would have to be
merged with each of its releases; libraries for patching, such as wrapt, wrap functions but do not tie a patch
to the releases on which its own tests passed.
"""
