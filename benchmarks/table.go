//go:build ignore

// A table that takes every write, and answers after DELAY milliseconds. It shows how
// fast a consumer is when its table is not the limit.
//
//	table PORT DELAY
//
// It answers the calls that a consumer makes, in DynamoDB's JSON protocol. It stores
// nothing, and evaluates no condition: each write succeeds.
package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const described = `{"Table":{"TableName":"t","TableStatus":"ACTIVE",` +
	`"TableId":"00000000-0000-0000-0000-000000000001","CreationDateTime":1700000000.0,` +
	`"KeySchema":[{"AttributeName":"PatientId","KeyType":"HASH"}],` +
	`"AttributeDefinitions":[{"AttributeName":"PatientId","AttributeType":"S"}]}}`

func main() {
	delay, err := strconv.ParseFloat(os.Args[2], 64)
	if err != nil {
		log.Fatal(err)
	}
	wait := time.Duration(delay * float64(time.Millisecond))
	take := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		answer := answerTo(operation, body)
		time.Sleep(wait)
		head := w.Header()
		head.Set("Content-Type", "application/x-amz-json-1.0")
		head.Set("Content-Length", strconv.Itoa(len(answer)))
		head.Set("X-Amz-Crc32", fmt.Sprint(crc32.ChecksumIEEE(answer)))
		head.Set("X-Amzn-Requestid", "benchmark")
		if answer == nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		w.Write(answer)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(take)))
}

func answerTo(operation string, body []byte) []byte {
	switch operation {
	case "BatchExecuteStatement":
		statements := bytes.Count(body, []byte(`"Statement":`))
		each := strings.TrimSuffix(strings.Repeat(`{"TableName":"t"},`, statements), ",")
		return []byte(`{"Responses":[` + each + `]}`)
	case "DescribeTable":
		return []byte(described)
	case "UpdateItem", "GetItem":
		return []byte(`{}`)
	}
	return nil
}
