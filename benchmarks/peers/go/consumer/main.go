// Peer (h): a strong consumer in Go, of franz-go and AWS's SDK.
//
// It merges a batch per patient, and writes as the project does: up to 25 conditional
// statements in a call, up to CALLS calls in flight, one statement per patient. Offsets
// are committed once the batch is written.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	batchRecords  = 2000
	callsInFlight = 32
	statements    = 25
)

// update is all updates of one patient in a batch.
type update struct {
	patientID string
	fields    map[string]*string
	partition int32
	offset    int64
	timestamp time.Time
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("KAFKA_BOOTSTRAP_SERVERS")),
		kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP_ID")),
		kgo.ConsumeTopics(os.Getenv("KAFKA_TOPIC")),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(time.Second),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	table := newTable()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, batchRecords)
		if records := fetches.Records(); len(records) > 0 {
			writeAll(table, merge(records))
			if err := client.CommitRecords(context.Background(), records...); err != nil {
				log.Print(err)
			}
		}
		client.AllowRebalance()
	}
}

// merge folds each patient's updates into one, in the order of their offsets.
func merge(records []*kgo.Record) []*update {
	byID := make(map[string]*update, len(records))
	updates := make([]*update, 0, len(records))
	for _, record := range records {
		var fields map[string]*string
		if err := json.Unmarshal(record.Value, &fields); err != nil {
			log.Fatal("a record is no update")
		}
		id := fields["PatientId"]
		if id == nil || *id != string(record.Key) {
			log.Fatal("a record's key is not its PatientId")
		}
		delete(fields, "PatientId")
		merged := byID[*id]
		if merged == nil {
			merged = &update{patientID: *id, fields: fields, partition: record.Partition}
			byID[*id] = merged
			updates = append(updates, merged)
		}
		for name, value := range fields {
			merged.fields[name] = value
		}
		merged.offset, merged.timestamp = record.Offset, record.Timestamp
	}
	return updates
}

func writeAll(table *table, updates []*update) {
	slots := make(chan struct{}, callsInFlight)
	var calls sync.WaitGroup
	for len(updates) > 0 {
		size := min(statements, len(updates))
		chunk := updates[:size]
		updates = updates[size:]
		slots <- struct{}{}
		calls.Add(1)
		go func() {
			defer func() { <-slots; calls.Done() }()
			table.write(chunk)
		}()
	}
	calls.Wait()
}
