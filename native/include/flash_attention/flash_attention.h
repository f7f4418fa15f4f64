/* FlashAttention: exact attention for C and every language that links C. This header includes the whole interface. */
#ifndef FLASH_ATTENTION_FLASH_ATTENTION_H
#define FLASH_ATTENTION_FLASH_ATTENTION_H

#include "flash_attention/attention.h"
#include "flash_attention/device.h"
#include "flash_attention/types.h"

#endif /* FLASH_ATTENTION_FLASH_ATTENTION_H */
