"""What a recipe is made of: attacks, penalties, objectives, models, schedules, optimisers,
averaging, stopping."""
