"""Peer (a): the view that most would write first.

A Django REST framework view with a fresh serializer for each request, which produces
and flushes before it answers. Run it with gunicorn:

    gunicorn --chdir benchmarks/peers --worker-class gthread --threads 16 naive_django
"""

from __future__ import annotations

import json
import os

import django
from confluent_kafka import Producer
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY="a-benchmark-has-none",
    ROOT_URLCONF="naive_django",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    INSTALLED_APPS=["rest_framework"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
)
django.setup()

from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers, status  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

TOPIC = os.environ["KAFKA_TOPIC"]
producer = Producer(
    {
        "bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    }
)


class PatientProfileSerializer(serializers.Serializer):
    PatientId = serializers.CharField(max_length=128)
    FirstName = serializers.CharField(max_length=100, required=False)
    LastName = serializers.CharField(max_length=100, required=False)
    DateOfBirth = serializers.DateField(required=False)
    Sex = serializers.ChoiceField(
        ["Female", "Male", "Other", "Unknown"], required=False
    )
    IsPregnant = serializers.ChoiceField(["True", "False"], required=False)
    Email = serializers.EmailField(max_length=254, required=False)
    Phone = serializers.CharField(max_length=32, required=False)
    Address = serializers.CharField(max_length=500, required=False)


class PatientProfileView(APIView):
    def post(self, request):
        serializer = PatientProfileSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        outcome = []
        producer.produce(
            TOPIC,
            key=serializer.data["PatientId"],
            value=json.dumps(serializer.data),
            on_delivery=lambda *report: outcome.append(report),
        )
        producer.flush(5)
        if not outcome or outcome[0][0] is not None:
            return Response(status=status.HTTP_503_SERVICE_UNAVAILABLE)
        return Response(
            {
                "PatientId": serializer.data["PatientId"],
                "Partition": outcome[0][1].partition(),
                "Offset": outcome[0][1].offset(),
            },
            status=status.HTTP_202_ACCEPTED,
        )


urlpatterns = [path("patientprofile", PatientProfileView.as_view())]
application = get_wsgi_application()
