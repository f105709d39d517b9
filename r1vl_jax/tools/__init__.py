"""Tools that a policy may call while it answers: functions of the user's own. See docs/multi_turn.md."""
