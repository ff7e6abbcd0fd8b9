"""The trainers: each leaves a folder that a stage opens."""
