/*
 * open.h - makes and frees a Blenderbot engine.  Private to src/engine/blenderbot/.
 */
#ifndef WYVERN_ENGINE_BLENDERBOT_OPEN_H
#define WYVERN_ENGINE_BLENDERBOT_OPEN_H

#include "engine/blenderbot/blenderbot_engine.h"

MUST_USE enum err bb_engine_open(struct engine **out, const struct engine_config *config);
void bb_engine_close(struct engine *engine);

#endif
