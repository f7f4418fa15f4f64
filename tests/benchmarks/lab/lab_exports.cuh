// What the shared objects of the laboratories export alike (common.py: class Loaded). One of them includes it, and defines lab_run and lab_time with it.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <exception>
#include <vector>

#include "runtime/cuda_check.h"

namespace {

char g_message[2048] = "";

/// 0, or 1 and lab_message() if the body throws.
template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(g_message, sizeof(g_message), "%s", error.what());
    return 1;
  }
}

/// Times of `repeats` launches in milliseconds, one after the other on the default stream, by events.
template <typename Launch>
void time_launches(int repeats, float* milliseconds, const Launch& launch) {
  std::vector<cudaEvent_t> events(static_cast<size_t>(repeats) + 1);
  for (cudaEvent_t& event : events) {
    fa::cuda_check(cudaEventCreate(&event), "cudaEventCreate");
  }
  fa::cuda_check(cudaEventRecord(events[0], nullptr), "cudaEventRecord");
  for (int i = 0; i < repeats; ++i) {
    launch();
    fa::cuda_check(cudaEventRecord(events[i + 1], nullptr), "cudaEventRecord");
  }
  fa::cuda_check(cudaEventSynchronize(events[repeats]), "cudaEventSynchronize");
  for (int i = 0; i < repeats; ++i) {
    fa::cuda_check(cudaEventElapsedTime(&milliseconds[i], events[i], events[i + 1]), "cudaEventElapsedTime");
  }
  for (cudaEvent_t event : events) {
    cudaEventDestroy(event);
  }
}

}  // namespace

extern "C" const char* lab_message() {
  return g_message;
}
