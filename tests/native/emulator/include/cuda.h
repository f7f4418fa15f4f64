// Stand-in for the driver's header: what parameters of Hopper kernels hold of it.
#pragma once

struct alignas(64) CUtensorMap {
  unsigned char opaque[128];
};
