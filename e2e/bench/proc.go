package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// clockTicks is USER_HZ, the unit of the times in /proc/PID/stat: a constant of the kernel's interface on every Linux that Go
// runs on.
const clockTicks = 100

// cpuSeconds is the CPU time that the processes and their children have used so far.
func cpuSeconds(pids []int) (float64, error) {
	var ticks uint64
	for _, pid := range family(pids) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		user, system, err := parseStat(data)
		if err != nil {
			return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
		}
		ticks += user + system
	}
	return float64(ticks) / clockTicks, nil
}

// parseStat returns the user and system time in ticks from /proc/PID/stat. The program's name, in parentheses, may itself hold
// spaces and parentheses (proc(5)).
func parseStat(data []byte) (user, system uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 13 {
		return 0, 0, fmt.Errorf("not as proc(5) says: %q", data)
	}
	if user, err = strconv.ParseUint(fields[11], 10, 64); err != nil {
		return 0, 0, fmt.Errorf("parse utime: %w", err)
	}
	if system, err = strconv.ParseUint(fields[12], 10, 64); err != nil {
		return 0, 0, fmt.Errorf("parse stime: %w", err)
	}
	return user, system, nil
}

// pssMB is the memory of the processes and their children in units of 1e6 bytes; a page that several share counts once.
func pssMB(pids []int) (float64, error) {
	var kib uint64
	for _, pid := range family(pids) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
		}
		_, rest, found := strings.Cut(string(data), "\nPss:")
		fields := strings.Fields(rest)
		if !found || len(fields) == 0 {
			return 0, fmt.Errorf("read the memory of process %d: no Pss in %q", pid, data)
		}
		n, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
		}
		kib += n
	}
	return float64(kib) * 1024 / 1e6, nil
}

// family is pids and all their descendants.
func family(pids []int) []int {
	var all []int
	for _, pid := range pids {
		all = append(all, pid)
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has ended; whoever reads its figures says so
		}
		for _, task := range tasks {
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			for _, field := range strings.Fields(string(data)) {
				if child, err := strconv.Atoi(field); err == nil {
					all = append(all, family([]int{child})...)
				}
			}
		}
	}
	return all
}
