// Package e2e tests the whole of bureau, for real: the binary as it is built, a private appliance
// run by an unprivileged user, a real guest with a real desktop, and requests over HTTP. What a
// request did is judged by independent means: an X client in the guest that shares no code with
// bureau (probe), the applications' own files, and libvirt's own tools.
//
// The appliance of the tests has its own prefix, pool, network, folders and port, and touches
// nothing beside them; its network is isolated but for the tests of what is reached over the other
// one. Whatever an interrupted run left behind is removed when the next one starts. Tests run beside
// each other where they may; turns_test.go says which.
//
// A failing test leaves what a person needs in the folder that it names: the appliance's log, the
// guest's journal, a picture of the display.
//
//	go test -tags libvirt_dlopen ./e2e                       everything, a quarter of an hour under emulation
//	go test -tags libvirt_dlopen ./e2e -run Typing           a part of it
//	go test -tags libvirt_dlopen ./e2e -run xxx -bench .     measured against xdotool and scrot
//
// BUREAU_E2E_ARTIFACTS names the folder for failures' remains; BUREAU_E2E_IMAGES the cache of built
// images where it is not the default one; BUREAU_E2E_SLOW how long the slow clients are kept up, such as
// 1m, in place of a few seconds; BUREAU_E2E_HOSTILE how long each attack of the hostile guest goes on.
// BUREAU_TEST_OFFLINE lets what needs a registry of packages be skipped where there is none;
// BUREAU_TEST_SCHEMATHESIS makes the fuzzing of the API complete.
package e2e
