"""The permission to view profiles; no table."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    """A model that the database does not hold, for its permission."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="PatientProfile",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                )
            ],
            options={"managed": False, "default_permissions": ("view",)},
        )
    ]
