// A receiver of webhooks in Go: verifies, keeps, answers 200, and only then works.
//
//	go mod init receiver && go get github.com/standard-webhooks/standard-webhooks/libraries
//	WEBHOOK_KEY=whsec_… PORT=9000 go run receive.go
//
// Each request is kept as the file inbox/<webhook-id> before it is answered, so that no crash of this program loses it,
// and one that comes twice is kept once.  A goroutine does the work, file by file, and moves what is done to done/.
// (The id has only letters, digits, - and _, and is signed too.)
package main

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"slices"
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
	for _, folder := range []string{"inbox/", "done/"} {
		if _, err := os.Stat(folder + id); err == nil {
			return nil
		}
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
	return os.Rename("inbox/."+id, "inbox/"+id)
}

// work does what is to be done, in the order of arrival, for ever.
func work() {
	for ; ; time.Sleep(100 * time.Millisecond) {
		var waiting []fs.FileInfo
		entries, _ := os.ReadDir("inbox")
		for _, entry := range entries {
			if info, err := entry.Info(); err == nil && !strings.HasPrefix(entry.Name(), ".") {
				waiting = append(waiting, info)
			}
		}
		slices.SortStableFunc(waiting, func(a, b fs.FileInfo) int {
			return cmp.Compare(a.ModTime().UnixNano(), b.ModTime().UnixNano())
		})
		for _, info := range waiting {
			body, err := os.ReadFile("inbox/" + info.Name())
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println("working on", info.Name(), string(body)) // your own work goes here
			if err := os.Rename("inbox/"+info.Name(), "done/"+info.Name()); err != nil {
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
