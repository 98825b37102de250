"""Rank promotion is an error in this folder."""

import ranks

strict = ranks.strict
