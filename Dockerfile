# One image for the web process (its default command), the consumer and every other
# `manage.py` command.
FROM python:3.13.14-slim-trixie

ENV DJANGO_DEBUG=0 \
    PYTHONUNBUFFERED=1

WORKDIR /app

COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.txt

# SQLite's file is in var/. A new volume mounted there gets the folder's owner.
RUN useradd --no-log-init --uid 10001 --create-home app \
    && install --directory --owner=app --group=app var

COPY manage.py ./
COPY patientsite patientsite
COPY profiles profiles

# A number lets an orchestrator check that the user is not root.
USER 10001:10001
EXPOSE 3000
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0"]
