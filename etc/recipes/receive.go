// A receiver of webhooks in Go: verifies, keeps, answers 200, and only then works.
//
//	go mod init receiver && go get github.com/standard-webhooks/standard-webhooks/libraries
//	WEBHOOK_KEY=whsec_… PORT=9000 go run receive.go
//
// Each request is kept as the file inbox/<time>.<webhook-id> before it is answered, so that no crash of this program
// loses it, and one that comes twice is kept once.  A goroutine does the work in the order of arrival, file by file, and
// moves what is done to done/<webhook-id>.  (The id has only letters, digits, - and _, and is signed too.)
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const maxBytes = 1 << 20

func receive(webhook *standardwebhooks.Webhook) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		// The raw bytes: what was signed is these, not what a parser makes of them.
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBytes))
		if err != nil {
			answer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		// Checks the signature, and that the time stamp is no more than five minutes off.
		if err := webhook.Verify(body, request.Header); err != nil {
			answer.WriteHeader(http.StatusUnauthorized)
			return
		}
		if err := keep(request.Header.Get("webhook-id"), body); err != nil {
			log.Print(err)
			answer.WriteHeader(http.StatusInternalServerError)
			return
		}
		answer.WriteHeader(http.StatusOK)
	}
}

// keep writes the event to the disk, whole or not at all, unless it was there before.
func keep(id string, body []byte) error {
	if found, _ := filepath.Glob("inbox/[0-9]*." + id); found != nil {
		return nil
	}
	if _, err := os.Stat("done/" + id); err == nil {
		return nil
	}
	file, err := os.Create("inbox/." + id)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(body); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename("inbox/."+id, fmt.Sprintf("inbox/%d.%s", time.Now().UnixNano(), id))
}

// work does what is to be done, in the order of arrival, for ever.
func work() {
	for ; ; time.Sleep(100 * time.Millisecond) {
		// What comes during the listing is for the next one, which misses nothing before it.
		until := fmt.Sprint(time.Now().UnixNano())
		entries, err := os.ReadDir("inbox") // in the order of their names, so of their times
		if err != nil {
			log.Fatal(err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if strings.HasPrefix(name, ".") || name >= until {
				continue
			}
			_, id, _ := strings.Cut(name, ".")
			body, err := os.ReadFile("inbox/" + name)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println("working on", id, string(body)) // your own work goes here
			if err := os.Rename("inbox/"+name, "done/"+id); err != nil {
				log.Fatal(err)
			}
		}
	}
}

func main() {
	webhook, err := standardwebhooks.NewWebhook(os.Getenv("WEBHOOK_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	for _, folder := range []string{"inbox", "done"} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			log.Fatal(err)
		}
	}
	go work()
	port := os.Getenv("PORT")
	if port == "" {
		port = "9000"
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, receive(webhook)))
}
