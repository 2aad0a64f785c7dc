"""DynamoDB: the client, the one writer, the one reader, the table's health."""
