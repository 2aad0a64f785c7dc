"""The permission to view profiles, which Django hangs on a model: there is no table.

Profiles are in DynamoDB; this names them for sign-in alone.
"""

from __future__ import annotations

from django.db import models


class PatientProfile(models.Model):
    """What `profiles.view_patientprofile` is about."""

    class Meta:
        """Only the permission."""

        managed = False
        default_permissions = ("view",)
