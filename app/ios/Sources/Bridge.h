// What Swift sees of the chat core.
#include "proofmark.h"
