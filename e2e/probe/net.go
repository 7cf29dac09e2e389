package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What of a network can be reached from where the probe runs, and what arrives there.

// reach tries destinations, all at once, and prints those that answered. Each is KIND:ADDRESS, where
// KIND is tcp, udp (anything that answers a datagram), dns (a name server that answers a question)
// or icmp, for which ADDRESS has no port.
func reach(args []string) error {
	flags := flag.NewFlagSet("reach", flag.ExitOnError)
	patience := flags.Duration("patience", 3*time.Second, "how long to wait for an answer")
	flags.Parse(args)
	answered := make([]bool, flags.NArg())
	var wg sync.WaitGroup
	for i, destination := range flags.Args() {
		wg.Go(func() {
			kind, address, _ := strings.Cut(destination, ":")
			answered[i] = try(kind, address, *patience) == nil
		})
	}
	wg.Wait()
	reached := []string{}
	for i, yes := range answered {
		if yes {
			reached = append(reached, flags.Arg(i))
		}
	}
	return json.NewEncoder(os.Stdout).Encode(reached)
}

func try(kind, address string, patience time.Duration) error {
	var network string
	var question, want []byte
	switch kind {
	case "tcp":
		network = "tcp"
	case "udp":
		network, question = "udp", []byte("anybody there?")
	case "dns": // the address of localhost, which no server asks another for
		network = "udp"
		question = []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01")
	case "icmp":
		network = "ip4:icmp"
		question = []byte{8, 0, 0, 0, byte(rand.Int()), byte(rand.Int()), 0, 1}
		want = []byte{0}
		if ip := net.ParseIP(strings.Split(address, "%")[0]); ip != nil && ip.To4() == nil {
			network, question[0], want[0] = "ip6:ipv6-icmp", 128, 129 // the kernel makes the checksum
		} else {
			binary.BigEndian.PutUint16(question[2:], checksum(question))
		}
		want = append(want, question[4:]...)
	default:
		return fmt.Errorf("there is no kind %q", kind)
	}
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if question == nil {
		return nil
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(question); err != nil {
		return err
	}
	buffer := make([]byte, 1500)
	for {
		n, err := conn.Read(buffer)
		if err != nil || want == nil {
			return err
		}
		answer := buffer[:n]
		if network == "ip4:icmp" && n >= 20 { // with the packet's header
			answer = answer[min(n, int(answer[0]&15)*4):]
		}
		// Others send errors and questions of their own.
		if len(answer) >= 8 && answer[0] == want[0] && bytes.Equal(answer[4:8], want[1:]) {
			return nil
		}
	}
}

func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(data[i])<<8 | uint32(data[i+1])
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// listen answers TCP and UDP at a port of every address, and prints who came. It says "ready" first.
func listen(args []string) error {
	flags := flag.NewFlagSet("listen", flag.ExitOnError)
	port := flags.Int("port", 0, "the port")
	flags.Parse(args)
	address := fmt.Sprintf(":%d", *port)
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	failed := make(chan error, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			fmt.Println("tcp", c.RemoteAddr())
			c.Close()
		}
	}()
	go func() {
		buffer := make([]byte, 1500)
		for {
			_, from, err := p.ReadFrom(buffer)
			if err != nil {
				failed <- err
				return
			}
			fmt.Println("udp", from)
			p.WriteTo([]byte("yes"), from)
		}
	}()
	return <-failed
}

// packets is a socket that sees every frame of an interface, and sends what it is told.
func packets(name string) (fd int, err error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	all := binary.NativeEndian.Uint16([]byte{0, syscall.ETH_P_ALL}) // in the network's order
	if fd, err = syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(all)); err != nil {
		return 0, err
	}
	return fd, syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
}

// send puts frames, given in hexadecimal on standard input, one a line, on an interface.
func send(args []string) error {
	flags := flag.NewFlagSet("send", flag.ExitOnError)
	name := flags.String("i", "", "the interface")
	flags.Parse(args)
	fd, err := packets(*name)
	if err != nil {
		return err
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	for line := range strings.FieldsSeq(string(input)) {
		frame, err := hex.DecodeString(line)
		if err != nil {
			return err
		}
		if _, err := syscall.Write(fd, frame); err != nil {
			return fmt.Errorf("send %s: %w", line, err)
		}
	}
	return nil
}

// sniff prints every frame that comes in at an interface, in hexadecimal. It says "ready" first.
func sniff(args []string) error {
	flags := flag.NewFlagSet("sniff", flag.ExitOnError)
	name := flags.String("i", "", "the interface")
	flags.Parse(args)
	fd, err := packets(*name)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := syscall.Recvfrom(fd, buffer, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if link, ok := from.(*syscall.SockaddrLinklayer); ok && link.Pkttype != syscall.PACKET_OUTGOING {
			fmt.Println(hex.EncodeToString(buffer[:n]))
		}
	}
}
