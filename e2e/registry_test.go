package e2e

// offlineVariable, when set, lets tests that need a registry of packages be skipped where there is none.
// Without it they fail there: what was not tested must not look as if it were.
const offlineVariable = "BUREAU_TEST_OFFLINE"
