// Peer (g): a gateway in Go, of Fiber and franz-go, which is idempotent by default.
//
// `POST /patientprofile` takes one update or an array, validates as the project does,
// and answers once all in-sync replicas have acknowledged.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

const topicID = "AAAAAAAAAAAAAAAAAAAAAA" // as long as a real one

type receipt struct {
	PatientId string
	Partition int32
	Offset    int64
	Receipt   string
}

func main() {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("KAFKA_BOOTSTRAP_SERVERS")),
		kgo.DefaultProduceTopic(os.Getenv("KAFKA_TOPIC")),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(3500*time.Millisecond),
		kgo.MaxBufferedRecords(200_000),
	)
	if err != nil {
		log.Fatal(err)
	}
	app := fiber.New(fiber.Config{DisableStartupMessage: true, BodyLimit: 16 << 20})
	app.Post("/patientprofile", func(c *fiber.Ctx) error { return post(c, client) })
	log.Fatal(app.Listen("127.0.0.1:" + os.Getenv("PORT")))
}

func post(c *fiber.Ctx, client *kgo.Client) error {
	body := c.Body()
	isArray := len(body) > 0 && body[0] == '['
	profiles, err := parse(body, isArray)
	if err != nil {
		return c.Status(fiber.StatusBadRequest).SendString(err.Error())
	}
	receipts, err := publish(client, profiles)
	switch {
	case err != nil:
		return c.SendStatus(fiber.StatusServiceUnavailable)
	case isArray:
		return c.Status(fiber.StatusAccepted).JSON(receipts)
	}
	return c.Status(fiber.StatusAccepted).JSON(receipts[0])
}

// publish sends all, and waits for all acknowledgements.
func publish(client *kgo.Client, profiles []profile) ([]receipt, error) {
	receipts := make([]receipt, len(profiles))
	failures := make([]error, len(profiles))
	var reports sync.WaitGroup
	reports.Add(len(profiles))
	for i := range profiles {
		value, err := json.Marshal(&profiles[i])
		if err != nil {
			return nil, err
		}
		id := profiles[i].PatientId
		record := &kgo.Record{Key: []byte(id), Value: value}
		client.Produce(context.Background(), record, func(r *kgo.Record, err error) {
			name := fmt.Sprintf("%s.%d.%d", topicID, r.Partition, r.Offset)
			receipts[i] = receipt{id, r.Partition, r.Offset, name}
			failures[i] = err
			reports.Done()
		})
	}
	reports.Wait()
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return receipts, nil
}
