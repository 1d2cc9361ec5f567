/* Proofmark's chat core for hosts in Swift or C; Kotlin and Java have org/proofmark/Core.java.
 *
 * A handle, and JSON in and out: the commands and events are those of src/message.rs. Every function but
 * proofmark_close and proofmark_free_string may be called from any thread. Strings that are handed out are UTF-8 and
 * freed by proofmark_free_string.
 */
#ifndef PROOFMARK_H
#define PROOFMARK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header: of the functions, and of the JSON that goes in and out. It changes when a host has to. A new
 * event, command or field does not change it: pass over what you do not know. */
#define PROOFMARK_ABI_VERSION 1

#define PROOFMARK_OK 0      /* the command was taken */
#define PROOFMARK_INVALID 1 /* it is no command */
#define PROOFMARK_BUSY 2    /* too many commands wait */
#define PROOFMARK_GONE 3    /* the core has ended */

typedef struct Proofmark Proofmark;

/* Starts the core. config: {"cache": DIR} and, as wanted, "data": DIR for conversations that are kept, "model_path":
 * FILE, or "model_fd": N with "model_offset" and "model_bytes" for an uncompressed asset of a package, "threads": N.
 * NULL on failure; then *error, unless error is NULL, says why and is to be freed. The first event is "card"; then
 * "installing" while a linked model is proved for the first time; then "ready" or "refused". */
Proofmark *proofmark_start(const char *config, char **error);

/* Sends a command such as {"command":"say","text":"hello"}; never waits. What fails is an event, "error", whose "command"
 * names what was asked for: others are answered while a reply is being written. */
int proofmark_send(const Proofmark *core, const char *command, char **error);

/* Ends the reply being written, at once. */
void proofmark_stop(const Proofmark *core);

/* The next event, to be freed; NULL when none came within timeout_ms, or the core has ended. A core that ends by itself
 * says "refused" last, and no event follows that one. With 0 it never waits, whoever else does. */
char *proofmark_next_event(const Proofmark *core, uint32_t timeout_ms);

/* PROOFMARK_ABI_VERSION of the library: another one than this header's is not to be started. */
uint32_t proofmark_abi_version(void);

/* Which model is inside and what proved it, to be freed. */
char *proofmark_provenance(void);

void proofmark_free_string(char *text);

/* Ends the core and waits until everything is on disk; while a model is being loaded, until it is: not for the thread of
 * an interface. No other call may begin with it any more; a proofmark_next_event that waits answers NULL. */
void proofmark_close(Proofmark *core);

#ifdef __cplusplus
}
#endif

#endif
