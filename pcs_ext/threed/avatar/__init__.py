"""Avatars that take poses: a skeleton, skin, poses from text, looks painted view by view."""
