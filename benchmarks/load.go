//go:build ignore

// The load, compiled: what benchmarks/load.py does, at a tenth of its CPU.
//
//	load PORT CONNECTIONS SECONDS MOST FILE
//
// FILE holds ready-made requests, each after its length (4 bytes, big-endian). They are
// sent again and again, one at a time on each connection, until SECONDS have passed or
// MOST were sent. Prints JSON: seconds, the answers by status, latencies in seconds.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const patience = 30 * time.Second

// schedule hands out the requests in turn, to all connections.
type schedule struct {
	requests [][]byte
	until    time.Time
	most     int64
	sent     atomic.Int64
}

func (s *schedule) next() []byte {
	number := s.sent.Add(1) - 1
	if number >= s.most || !time.Now().Before(s.until) {
		return nil
	}
	return s.requests[number%int64(len(s.requests))]
}

// load is what one connection was answered.
type load struct {
	answers   map[string]int
	latencies []float64
	last      []byte
}

func main() {
	log.SetFlags(0)
	port := os.Args[1]
	connections, seconds, most := number(2), number(3), number(4)
	started := time.Now()
	plan := &schedule{
		requests: read(os.Args[5]),
		until:    started.Add(time.Duration(seconds * float64(time.Second))),
		most:     int64(most),
	}
	loads := make([]load, int(connections))
	var done sync.WaitGroup
	for i := range loads {
		done.Add(1)
		go func() {
			defer done.Done()
			loads[i] = run(port, plan)
		}()
	}
	done.Wait()
	report(loads, time.Since(started))
}

func number(argument int) float64 {
	value, err := strconv.ParseFloat(os.Args[argument], 64)
	check(err)
	return value
}

func read(path string) (requests [][]byte) {
	file, err := os.ReadFile(path)
	check(err)
	for len(file) > 0 {
		length := binary.BigEndian.Uint32(file)
		requests = append(requests, file[4:4+length])
		file = file[4+length:]
	}
	return requests
}

// run sends requests on one connection until the schedule has no more.
func run(port string, plan *schedule) load {
	connection, err := net.DialTimeout("tcp", "127.0.0.1:"+port, patience)
	check(err)
	defer connection.Close()
	answers := bufio.NewReaderSize(connection, 1<<16)
	result := load{answers: map[string]int{}}
	for request := plan.next(); request != nil; request = plan.next() {
		sent := time.Now()
		check(connection.SetDeadline(sent.Add(patience)))
		_, err := connection.Write(request)
		check(err)
		status := result.take(answers)
		result.answers[status]++
		result.latencies = append(result.latencies, time.Since(sent).Seconds())
	}
	return result
}

// take reads one answer, which has to name its length; returns its status.
func (l *load) take(answers *bufio.Reader) string {
	line, err := answers.ReadSlice('\n')
	check(err)
	status := string(line[9:12])
	length := -1
	for len(bytes.TrimSpace(line)) > 0 {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("content-length")) {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			check(err)
		}
		line, err = answers.ReadSlice('\n')
		check(err)
	}
	if length < 0 {
		log.Fatal("an answer has no Content-Length")
	}
	l.last = slices.Grow(l.last[:0], length)[:length]
	_, err = io.ReadFull(answers, l.last)
	check(err)
	return status
}

func report(loads []load, took time.Duration) {
	answers, latencies := map[string]int{}, []float64{}
	var last []byte
	for _, each := range loads {
		for status, count := range each.answers {
			answers[status] += count
		}
		latencies = append(latencies, each.latencies...)
		if each.last != nil {
			last = each.last
		}
	}
	slices.Sort(latencies)
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"seconds": took.Seconds(), "answers": answers, "latencies": latencies, "last": last,
	}))
}

func check(err error) {
	if err != nil {
		log.Fatal(fmt.Errorf("load: %w", err))
	}
}
