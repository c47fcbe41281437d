/* Stands in for libphidget22 in tests: boards are lines "SERIAL PORT CODE RATIO" of the file STATE; CODE is what
 * getVoltageRatio returns, 52 means unplugged. A line that begins with "crash" crashes, one with "hang" hangs. Signatures are
 * those of phidget22.h. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct channel {
	int32_t serial, channel, opened;
	uint32_t interval;
	double trigger;
};

static int look(struct channel *c, int *code, double *ratio) {
	char line[256];
	int found = 0;
	FILE *f = fopen(STATE, "r");
	if (f == NULL)
		return 0;
	while (fgets(line, sizeof line, f) != NULL) {
		int serial, port;
		if (line[0] == 'c')
			abort();
		if (line[0] == 'h')
			pause();
		if (sscanf(line, "%d %d %d %lf", &serial, &port, code, ratio) == 4 && serial == c->serial && port == c->channel) {
			found = *code != 52;
			break;
		}
	}
	fclose(f);
	return found;
}

int PhidgetVoltageRatioInput_create(struct channel **c) {
	*c = calloc(1, sizeof **c);
	(*c)->trigger = 1;
	return 0;
}
int Phidget_setDeviceSerialNumber(struct channel *c, int32_t serial) {
	c->serial = serial;
	return 0;
}
int Phidget_setChannel(struct channel *c, int channel) {
	c->channel = channel;
	return 0;
}
int Phidget_open(struct channel *c) {
	c->opened = 1;
	return 0;
}
int Phidget_getAttached(struct channel *c, int *attached) {
	int code;
	double ratio;
	*attached = c->opened && look(c, &code, &ratio);
	return 0;
}
int PhidgetVoltageRatioInput_setDataInterval(struct channel *c, uint32_t ms) {
	c->interval = ms;
	return 0;
}
int PhidgetVoltageRatioInput_setVoltageRatioChangeTrigger(struct channel *c, double trigger) {
	c->trigger = trigger;
	return 0;
}
int PhidgetVoltageRatioInput_getVoltageRatio(struct channel *c, double *ratio) {
	int code;
	if (!look(c, &code, ratio))
		return 0x34;
	/* As the vendor's: changes below the trigger do not show. */
	if (c->trigger != 0 || c->interval == 0)
		*ratio = -1;
	return code;
}
int Phidget_close(struct channel *c) {
	free(c);
	return 0;
}
