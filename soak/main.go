package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if code, ok := roled(); ok {
		os.Exit(code)
	}
	o := options{}
	flag.Uint64Var(&o.Seed, "seed", rand.Uint64N(1_000_000), "what everything follows from")
	flag.IntVar(&o.Kills, "kills", 300, "how many kills there have to be")
	flag.DurationVar(&o.Limit, "limit", 40*time.Minute, "the time for all of it, after which it has failed")
	flag.IntVar(&o.Slots, "desktops", 6, "how many desktops there are at most")
	flag.IntVar(&o.Clients, "clients", 4, "how many clients there are")
	flag.StringVar(&o.Bureau, "bureau", "./bureau", "the appliance's program")
	flag.StringVar(&o.Keep, "keep", filepath.Join(os.TempDir(), prefix+"-failure"), "folder for what a failure leaves behind")
	flag.BoolVar(&o.Verbose, "v", false, "tell of every operation")
	plan := flag.Int("plan", 0, "only print that many rounds of the plan")
	flag.Parse()
	if *plan > 0 {
		p := newPlanner(o.Seed, o.Slots, o.Clients)
		for range *plan {
			fmt.Print(p.next())
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := enter(ctx, o, os.Stdout, os.Stderr); err != nil {
		stop()
		os.Exit(fail(err))
	}
}
