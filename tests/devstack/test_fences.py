"""Fences of deleted topics, removed from a table on moto."""

from __future__ import annotations

from devstack.fences import clear_old_fences


def item(dynamodb, settings, patient_id: str) -> dict[str, str]:
    found = dynamodb.get_item(
        TableName=settings.DYNAMODB_TABLE, Key={"PatientId": {"S": patient_id}}
    )["Item"]
    return {name: next(iter(value.values())) for name, value in found.items()}


def test_all_but_one_of_the_fences_of_deleted_topics_are_removed_and_nothing_else(
    dynamodb, settings
):
    kept = {
        "PatientId": {"S": "1"},
        "LastName": {"S": "Roe"},
        "_fence:new:3": {"N": "7"},
    }
    old = {"_fence:old:0": {"N": "1"}, "_fence:older:11": {"N": "2"}}
    dynamodb.put_item(TableName=settings.DYNAMODB_TABLE, Item={**kept, **old})
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 1
    assert item(dynamodb, settings, "1") == {
        "PatientId": "1",
        "LastName": "Roe",
        "_fence:new:3": "7",
        "_fence:old:0": "1",
    }
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 0


def test_old_fences_of_more_items_than_one_transaction_holds_are_removed(
    dynamodb, settings
):
    for number in range(103):
        fenced = {"PatientId": {"S": str(number)}, "_fence:old:1": {"N": "5"}}
        fenced["_fence:older:1"] = {"N": "5"}
        dynamodb.put_item(TableName=settings.DYNAMODB_TABLE, Item=fenced)
    assert clear_old_fences(dynamodb, settings.DYNAMODB_TABLE, "new") == 103
    assert item(dynamodb, settings, "102") == {
        "PatientId": "102",
        "_fence:old:1": "5",
    }
