package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// Names and marks of the project's length: its own hold a topic's id and a table's.
const (
	topicID  = "AAAAAAAAAAAAAAAAAAAAAA"
	markName = "_incarnation"
	mark     = topicID + " 00000000-0000-0000-0000-000000000001"
)

type table struct {
	client *dynamodb.Client
	name   string
}

func newTable() *table {
	return &table{
		name: os.Getenv("DYNAMODB_TABLE"),
		client: dynamodb.New(dynamodb.Options{
			Region:       "us-east-1",
			BaseEndpoint: aws.String(os.Getenv("DYNAMODB_ENDPOINT_URL")),
			Credentials:  credentials.NewStaticCredentialsProvider("test", "test", ""),
		}),
	}
}

// write updates the items that exist, then creates those that do not.
func (t *table) write(chunk []*update) {
	if missing := t.execute(chunk, t.updateStatement); len(missing) > 0 {
		if refused := t.execute(missing, t.insertStatement); len(refused) > 0 {
			log.Printf("%d updates were applied already", len(refused))
		}
	}
}

type build func(*update) types.BatchStatementRequest

// execute makes one call; it returns the updates whose condition did not hold.
func (t *table) execute(chunk []*update, statement build) (refused []*update) {
	requests := make([]types.BatchStatementRequest, len(chunk))
	for i, each := range chunk {
		requests[i] = statement(each)
	}
	input := &dynamodb.BatchExecuteStatementInput{Statements: requests}
	output, err := t.client.BatchExecuteStatement(context.Background(), input)
	if err != nil {
		log.Fatal(err)
	}
	for i, response := range output.Responses {
		if response.Error != nil {
			refused = append(refused, chunk[i])
		}
	}
	return refused
}

func (t *table) updateStatement(u *update) types.BatchStatementRequest {
	var text strings.Builder
	var removals strings.Builder
	parameters := make([]types.AttributeValue, 0, len(u.fields)+5)
	text.WriteString(`UPDATE "` + t.name + `"`)
	for name, value := range u.fields {
		if value == nil {
			removals.WriteString(` REMOVE "` + name + `"`)
			continue
		}
		text.WriteString(` SET "` + name + `"=?`)
		parameters = append(parameters, str(*value))
	}
	fence, offset := u.fence()
	text.WriteString(` SET "UpdatedAt"=? SET "` + fence + `"=?` + removals.String())
	text.WriteString(` WHERE "PatientId"=? AND "` + markName + `"=?`)
	text.WriteString(` AND NOT ("` + fence + `" IS NOT MISSING AND NOT "` + fence + `" < ?)`)
	parameters = append(parameters, u.updatedAt(), offset, str(u.patientID), str(mark), offset)
	return types.BatchStatementRequest{
		Statement:                           aws.String(text.String()),
		Parameters:                          parameters,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

func (t *table) insertStatement(u *update) types.BatchStatementRequest {
	fence, offset := u.fence()
	names := []string{"'PatientId': ?", "'UpdatedAt': ?", "'" + markName + "': ?", "'" + fence + "': ?"}
	parameters := []types.AttributeValue{str(u.patientID), u.updatedAt(), str(mark), offset}
	for name, value := range u.fields {
		if value != nil {
			names = append(names, "'"+name+"': ?")
			parameters = append(parameters, str(*value))
		}
	}
	text := `INSERT INTO "` + t.name + `" VALUE {` + strings.Join(names, ", ") + "}"
	return types.BatchStatementRequest{Statement: &text, Parameters: parameters}
}

func (u *update) fence() (string, types.AttributeValue) {
	name := fmt.Sprintf("_fence:%s:%d", topicID, u.partition)
	return name, &types.AttributeValueMemberN{Value: strconv.FormatInt(u.offset, 10)}
}

func (u *update) updatedAt() types.AttributeValue {
	return str(u.timestamp.UTC().Format("2006-01-02T15:04:05.000+00:00"))
}

func str(text string) types.AttributeValue {
	return &types.AttributeValueMemberS{Value: text}
}
