"""Training: losses, optimisers, schedules, augmentation, averages; one loop; checkpoints.

What a user may add by name (`losses`, `optimizers`, `schedules`, `augmentation`) and the section of
a config that chooses from it (`config`) import nothing slow: `launch.py --help` reads them.
"""
