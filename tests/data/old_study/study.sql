SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA hpo;
CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);
CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);
CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);
CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);
CREATE TABLE hpo.halt (
    study_id integer NOT NULL,
    kind text NOT NULL,
    began timestamp with time zone DEFAULT now() NOT NULL,
    ended timestamp with time zone,
    CONSTRAINT halt_kind_check CHECK ((kind = ANY (ARRAY['pause'::text, 'stop'::text])))
);
CREATE TABLE hpo.log (
    id bigint NOT NULL,
    study_id integer NOT NULL,
    trial integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    line text NOT NULL
);
ALTER TABLE hpo.log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME hpo.log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE hpo.place (
    study_id integer NOT NULL,
    number integer NOT NULL,
    state text NOT NULL,
    worker text,
    trial integer,
    failed_runs integer DEFAULT 0 CONSTRAINT place_deaths_not_null NOT NULL,
    reason text,
    epoch integer DEFAULT 0 NOT NULL,
    epochs integer,
    macro_f1 double precision,
    best double precision,
    taken timestamp with time zone DEFAULT now() NOT NULL,
    ended timestamp with time zone,
    busy_seconds double precision DEFAULT 0 NOT NULL,
    CONSTRAINT place_state_check CHECK ((state = ANY (ARRAY['running'::text, 'waiting'::text, 'complete'::text, 'pruned'::text, 'failed'::text])))
);
CREATE TABLE hpo.version (
    number integer NOT NULL
);
CREATE TABLE hpo.worker (
    id text NOT NULL,
    study_id integer NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    device text NOT NULL,
    started timestamp with time zone DEFAULT now() NOT NULL,
    beat bigint DEFAULT 0 NOT NULL,
    beaten timestamp with time zone DEFAULT now() NOT NULL,
    gone timestamp with time zone,
    seconds jsonb DEFAULT '{}'::jsonb NOT NULL,
    died boolean DEFAULT false NOT NULL
);
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);
CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;
CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);
CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;
CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;
CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;
CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;
CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);
CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;
CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);
CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;
CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;
CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);
CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;
CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);
CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;
CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);
CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;
CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);
ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);
ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);
ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);
ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);
ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);
ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);
ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);
ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);
INSERT INTO hpo.log OVERRIDING SYSTEM VALUE VALUES
	(1, 1, 0, '2026-11-28 01:59:49.787318+00', 'epoch 1 of 4: macro-F1 0.5442, accuracy 0.5556, train loss 1.1724, learning rate 9.27e-04, 0.8 s'),
	(2, 1, 0, '2026-11-28 01:59:49.844406+00', 'epoch 2 of 4: macro-F1 0.6040, accuracy 0.6111, train loss 1.0356, learning rate 6.02e-04, 0.0 s'),
	(3, 1, 0, '2026-11-28 01:59:49.891284+00', 'epoch 3 of 4: macro-F1 0.6111, accuracy 0.6111, train loss 1.0516, learning rate 2.12e-04, 0.0 s'),
	(4, 1, 0, '2026-11-28 01:59:49.937633+00', 'epoch 4 of 4: macro-F1 0.6111, accuracy 0.6111, train loss 1.0418, learning rate 4.66e-06, 0.0 s'),
	(5, 1, 1, '2026-11-28 01:59:50.131278+00', 'epoch 1 of 4: macro-F1 0.5952, accuracy 0.6111, train loss 1.0779, learning rate 8.16e-03, 0.0 s'),
	(6, 1, 1, '2026-11-28 01:59:50.169148+00', 'epoch 2 of 4: macro-F1 0.7050, accuracy 0.7222, train loss 0.5828, learning rate 5.47e-03, 0.0 s'),
	(7, 1, 1, '2026-11-28 01:59:50.20935+00', 'epoch 3 of 4: macro-F1 0.8222, accuracy 0.8333, train loss 0.4322, learning rate 1.96e-03, 0.0 s'),
	(8, 1, 1, '2026-11-28 01:59:50.243024+00', 'epoch 4 of 4: macro-F1 0.9441, accuracy 0.9444, train loss 0.3479, learning rate 4.35e-05, 0.0 s'),
	(9, 1, 2, '2026-11-28 01:59:50.403243+00', 'epoch 1 of 4: macro-F1 0.5952, accuracy 0.6111, train loss 1.1260, learning rate 8.89e-03, 0.0 s'),
	(10, 1, 2, '2026-11-28 01:59:50.431287+00', 'epoch 2 of 4: macro-F1 0.7050, accuracy 0.7222, train loss 0.6388, learning rate 6.88e-03, 0.0 s'),
	(11, 1, 2, '2026-11-28 01:59:50.46021+00', 'epoch 3 of 4: macro-F1 0.8857, accuracy 0.8889, train loss 0.4540, learning rate 2.66e-03, 0.0 s'),
	(12, 1, 2, '2026-11-28 01:59:50.490919+00', 'epoch 4 of 4: macro-F1 0.9441, accuracy 0.9444, train loss 0.3514, learning rate 6.06e-05, 0.0 s'),
	(13, 1, 3, '2026-11-28 01:59:50.679553+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1899, learning rate 9.81e-05, 0.0 s'),
	(14, 1, 3, '2026-11-28 01:59:50.71301+00', 'epoch 2 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1279, learning rate 7.59e-05, 0.0 s'),
	(15, 1, 3, '2026-11-28 01:59:50.749602+00', 'epoch 3 of 4: macro-F1 0.4167, accuracy 0.4444, train loss 1.1995, learning rate 2.93e-05, 0.0 s'),
	(16, 1, 3, '2026-11-28 01:59:50.790249+00', 'epoch 4 of 4: macro-F1 0.4167, accuracy 0.4444, train loss 1.2056, learning rate 6.69e-07, 0.0 s'),
	(17, 1, 4, '2026-11-28 01:59:50.955267+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.2591, learning rate 9.84e-06, 0.0 s'),
	(18, 1, 4, '2026-11-28 01:59:50.991092+00', 'epoch 2 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.2469, learning rate 6.60e-06, 0.0 s'),
	(19, 1, 4, '2026-11-28 01:59:51.020328+00', 'epoch 3 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.2843, learning rate 2.37e-06, 0.0 s'),
	(20, 1, 4, '2026-11-28 01:59:51.055915+00', 'epoch 4 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1352, learning rate 5.24e-08, 0.0 s'),
	(21, 1, 5, '2026-11-28 01:59:51.212745+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1896, learning rate 1.90e-05, 0.0 s'),
	(22, 1, 6, '2026-11-28 02:00:07.515659+00', 'epoch 1 of 4: macro-F1 0.4926, accuracy 0.5000, train loss 1.2513, learning rate 2.31e-04, 1.3 s'),
	(23, 1, 7, '2026-11-28 02:00:24.672204+00', 'going on after epoch 1 and 0 steps, where trial 6 was left'),
	(24, 1, 7, '2026-11-28 02:00:24.672204+00', 'epoch 2 of 4: macro-F1 0.6083, accuracy 0.6111, train loss 1.2097, learning rate 1.46e-04, 1.4 s'),
	(25, 1, 7, '2026-11-28 02:00:24.727233+00', 'epoch 3 of 4: macro-F1 0.6083, accuracy 0.6111, train loss 1.2282, learning rate 5.05e-05, 0.0 s'),
	(26, 1, 8, '2026-11-28 02:00:58.191224+00', 'Traceback (most recent call last):'),
	(27, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/hpo/training.py", line 144, in _ended'),
	(28, 1, 8, '2026-11-28 02:00:58.191224+00', '    value = objective('),
	(29, 1, 8, '2026-11-28 02:00:58.191224+00', '            ^^^^^^^^^^'),
	(30, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/objective.py", line 137, in objective'),
	(31, 1, 8, '2026-11-28 02:00:58.191224+00', '    for epoch in epochs:'),
	(32, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/fit.py", line 202, in fit'),
	(33, 1, 8, '2026-11-28 02:00:58.191224+00', '    total_loss += steps.take(images, truth)'),
	(34, 1, 8, '2026-11-28 02:00:58.191224+00', '                  ^^^^^^^^^^^^^^^^^^^^^^^^^'),
	(35, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/step.py", line 129, in take'),
	(36, 1, 8, '2026-11-28 02:00:58.191224+00', '    loss = self._micro_batch.run(lambda size: self._attempt(images, labels, size), len(labels), undo)'),
	(37, 1, 8, '2026-11-28 02:00:58.191224+00', '           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
	(38, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/step.py", line 62, in run'),
	(39, 1, 8, '2026-11-28 02:00:58.191224+00', '    return function(self.size)'),
	(40, 1, 8, '2026-11-28 02:00:58.191224+00', '           ^^^^^^^^^^^^^^^^^^^'),
	(41, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/step.py", line 129, in <lambda>'),
	(42, 1, 8, '2026-11-28 02:00:58.191224+00', '    loss = self._micro_batch.run(lambda size: self._attempt(images, labels, size), len(labels), undo)'),
	(43, 1, 8, '2026-11-28 02:00:58.191224+00', '                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
	(44, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/step.py", line 175, in _attempt'),
	(45, 1, 8, '2026-11-28 02:00:58.191224+00', '    loss = self._loss_of(self._forward(images), labels, partners)'),
	(46, 1, 8, '2026-11-28 02:00:58.191224+00', '           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^'),
	(47, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/trainer/losses.py", line 148, in _shared_loss'),
	(48, 1, 8, '2026-11-28 02:00:58.191224+00', '    return of_labels(logits, labels)'),
	(49, 1, 8, '2026-11-28 02:00:58.191224+00', '           ^^^^^^^^^^^^^^^^^^^^^^^^^'),
	(50, 1, 8, '2026-11-28 02:00:58.191224+00', '  File "/opt/hpo/tests/faulty.py", line 71, in slow'),
	(51, 1, 8, '2026-11-28 02:00:58.191224+00', '    raise ValueError("the loss had enough")'),
	(52, 1, 8, '2026-11-28 02:00:58.191224+00', 'ValueError: the loss had enough'),
	(53, 1, 9, '2026-11-28 02:01:49.663373+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1894, learning rate 2.96e-05, 2.9 s'),
	(54, 1, 10, '2026-11-28 02:01:50.129441+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1896, learning rate 2.83e-05, 0.1 s'),
	(55, 1, 11, '2026-11-28 02:01:50.586624+00', 'epoch 1 of 4: macro-F1 0.3235, accuracy 0.3889, train loss 1.1898, learning rate 4.06e-05, 0.1 s'),
	(56, 1, 12, '2026-11-28 02:01:51.294625+00', 'epoch 1 of 4: macro-F1 0.6083, accuracy 0.6111, train loss 1.1621, learning rate 1.87e-03, 0.1 s'),
	(57, 1, 12, '2026-11-28 02:01:51.470645+00', 'epoch 2 of 4: macro-F1 0.6654, accuracy 0.6667, train loss 0.9604, learning rate 1.26e-03, 0.1 s');
INSERT INTO hpo.place VALUES
	(1, 9, 'pruned', 'f2455894-118b-4dae-9237-bbacbc8a5010', 10, 0, NULL, 1, 4, 0.3235294117647059, 0.3235294117647059, '2026-11-28 02:01:49.798929+00', '2026-11-28 02:01:50.20116+00', 0.402231),
	(1, 0, 'complete', '4a72203e-9ced-425b-8d58-819c6261beb7', 0, 0, NULL, 4, 4, 0.611111111111111, 0.611111111111111, '2026-11-28 01:59:48.73924+00', '2026-11-28 01:59:50.008286+00', 1.269046),
	(1, 10, 'pruned', 'f2455894-118b-4dae-9237-bbacbc8a5010', 11, 0, NULL, 1, 4, 0.3235294117647059, 0.3235294117647059, '2026-11-28 02:01:50.215877+00', '2026-11-28 02:01:50.67862+00', 0.462743),
	(1, 1, 'complete', '4a72203e-9ced-425b-8d58-819c6261beb7', 1, 0, NULL, 4, 4, 0.9440559440559441, 0.9440559440559441, '2026-11-28 01:59:50.031068+00', '2026-11-28 01:59:50.281042+00', 0.249974),
	(1, 2, 'complete', '4a72203e-9ced-425b-8d58-819c6261beb7', 2, 0, NULL, 4, 4, 0.9440559440559441, 0.9440559440559441, '2026-11-28 01:59:50.292932+00', '2026-11-28 01:59:50.532948+00', 0.240016),
	(1, 11, 'waiting', NULL, 12, 0, 'interrupted', 2, 4, 0.6654456654456654, 0.6654456654456654, '2026-11-28 02:01:50.718867+00', '2026-11-28 02:01:51.62517+00', 0.906303),
	(1, 3, 'complete', '4a72203e-9ced-425b-8d58-819c6261beb7', 3, 0, NULL, 4, 4, 0.4166666666666667, 0.4166666666666667, '2026-11-28 01:59:50.554893+00', '2026-11-28 01:59:50.836332+00', 0.281439),
	(1, 4, 'complete', '4a72203e-9ced-425b-8d58-819c6261beb7', 4, 0, NULL, 4, 4, 0.3235294117647059, 0.3235294117647059, '2026-11-28 01:59:50.850903+00', '2026-11-28 01:59:51.093083+00', 0.24218),
	(1, 5, 'pruned', '4a72203e-9ced-425b-8d58-819c6261beb7', 5, 0, NULL, 1, 4, 0.3235294117647059, 0.3235294117647059, '2026-11-28 01:59:51.110906+00', '2026-11-28 01:59:51.239936+00', 0.12903),
	(1, 6, 'pruned', '4e4a0cf3-99e3-4637-950c-f87c6e1f10b6', 7, 1, NULL, 3, 4, 0.6083333333333334, 0.6083333333333334, '2026-11-28 02:00:23.128394+00', '2026-11-28 02:00:24.822644+00', 1.69425),
	(1, 7, 'failed', '0764c010-f97b-44b8-9f73-eb4ced4be1b9', 8, 0, 'ValueError: the loss had enough', 0, NULL, NULL, NULL, '2026-11-28 02:00:56.795319+00', '2026-11-28 02:00:58.207423+00', 1.412104),
	(1, 8, 'pruned', 'f2455894-118b-4dae-9237-bbacbc8a5010', 9, 0, NULL, 1, 4, 0.3235294117647059, 0.3235294117647059, '2026-11-28 02:01:46.318631+00', '2026-11-28 02:01:49.763174+00', 3.444543);
INSERT INTO hpo.version VALUES
	(2);
INSERT INTO hpo.worker VALUES
	('4a72203e-9ced-425b-8d58-819c6261beb7', 1, 'host-a', 17002, 'cpu', '2026-11-28 01:59:48.728113+00', 0, '2026-11-28 01:59:51.25444+00', '2026-11-28 01:59:51.25444+00', '{"data": 0.8737060439998459, "idle": 0.0, "between": 0.02163297400011288, "storage": 0.979293819000759, "start_up": 1.1267306360000475, "training": 0.5333417339993503, "turnover": 0.3549469979998321, "preparing": 0.11362592699970264, "to_first_step": 0.3156018560002849, "turnover_count": 5, "to_first_step_count": 6}', false),
	('4e4a0cf3-99e3-4637-950c-f87c6e1f10b6', 1, 'host-a', 17544, 'cpu', '2026-11-28 02:00:20.095503+00', 25, '2026-11-28 02:00:24.850333+00', '2026-11-28 02:00:24.850333+00', '{"data": 1.3172559849999743, "idle": 3.0011461959998087, "between": 0.011717528000644961, "storage": 0.314938877998884, "start_up": 1.1631446430001233, "training": 0.0862224900010915, "preparing": 0.019668537999677937, "to_first_step": 0.04279268600021169, "to_first_step_count": 1}', false),
	('0764c010-f97b-44b8-9f73-eb4ced4be1b9', 1, 'host-a', 18093, 'cpu', '2026-11-28 02:00:56.76808+00', 0, '2026-11-28 02:00:58.240299+00', '2026-11-28 02:00:58.240299+00', '{"data": 0.0, "idle": 0.0, "between": 0.013291433999711444, "storage": 0.17337316200018904, "start_up": 1.858833370999946, "training": 1.2652240560000791, "preparing": 0.0}', false),
	('0b9390e0-0d25-460b-bf49-79f0de4c4780', 1, 'host-a', 17328, 'cpu', '2026-11-28 02:00:05.957976+00', 0, '2026-11-28 02:00:05.957976+00', '2026-11-28 02:00:05.957976+00', '{}', true),
	('f2455894-118b-4dae-9237-bbacbc8a5010', 1, 'host-a', 18571, 'cpu', '2026-11-28 02:01:46.291569+00', 1, '2026-11-28 02:01:51.695098+00', '2026-11-28 02:01:51.695098+00', '{"data": 2.886094471999513, "idle": 0.0, "between": 0.022522662999108434, "storage": 1.8580372630017337, "start_up": 7.284931747999963, "training": 0.5675784380005098, "turnover": 0.45890610399965226, "preparing": 0.04173446999902808, "to_first_step": 0.6795106499989743, "turnover_count": 3, "to_first_step_count": 4}', false);
INSERT INTO public.alembic_version VALUES
	('v3.2.0.a');
INSERT INTO public.studies VALUES
	(1, 'old');
INSERT INTO public.study_directions VALUES
	(1, 'MAXIMIZE', 1, 0);
INSERT INTO public.study_user_attributes VALUES
	(1, 1, 'hpo:id', '"de76415ece2f41d484100558e9ebe488"'),
	(2, 1, 'hpo:settings', '{"recipe": {"backbone": "linear", "pretrained": true, "image_size": 8, "pooling": "default", "dropout": 0.0, "drop_path": 0.0, "freeze": 0.0, "epochs": 4, "batch_size": 8, "optimizer": ["adamw", "sgd"], "learning_rate": {"low": 1e-05, "high": 0.01, "log": true}, "layer_decay": 1.0, "weight_decay": {"low": 1e-05, "high": 0.1, "log": true}, "clip_norm": [0.0, 1.0], "schedule": "cosine", "warmup": [0.0, 0.05, 0.1, 0.2], "loss": "slow", "focal_gamma": {"low": 0.5, "high": 5.0, "log": false}, "label_smoothing": [0.05, 0.1, 0.2], "adjustment_tau": {"low": 0.5, "high": 1.5, "log": false}, "arcface_margin": {"low": 0.1, "high": 0.5, "log": false}, "arcface_scale": {"low": 8.0, "high": 64.0, "log": true}, "class_weights": ["none", "balanced", "effective_number"], "effective_beta": [0.9, 0.99, 0.999, 0.9999], "sampler": ["shuffle", "balanced"], "augment": "flip", "randaugment_ops": [2, 3], "randaugment_magnitude": [9, 17], "mixing": "none", "mixup_alpha": {"low": 0.2, "high": 8.0, "log": true}, "cutmix_alpha": {"low": 0.1, "high": 4.0, "log": true}, "mix_probability": [0.5, 1.0], "ema": true, "compile": false, "seed": 0}, "data": {"valid": 0.25, "test": 0.15, "seed": 0, "group": null, "group_pattern": null}, "images": {"count": 72, "digest": "365c15b3eb20a447e45dc6b8b9e081b33050d9848c1e8cf5f9996bf4a295cb78", "split_digest": "11f13751f2b748b2a8a50757acdb393d15b29721bb4abb63d5efbeffc3fe4ba4"}, "major versions": {"albumentations": "2", "numpy": "2", "optuna": "5", "timm": "1", "torch": "2"}}');
INSERT INTO public.trial_intermediate_values VALUES
	(1, 1, 1, 0.5442265795206972, 'FINITE'),
	(2, 1, 2, 0.604040404040404, 'FINITE'),
	(3, 1, 3, 0.611111111111111, 'FINITE'),
	(4, 1, 4, 0.611111111111111, 'FINITE'),
	(5, 2, 1, 0.5952380952380952, 'FINITE'),
	(6, 2, 2, 0.7049910873440286, 'FINITE'),
	(7, 2, 3, 0.8222222222222223, 'FINITE'),
	(8, 2, 4, 0.9440559440559441, 'FINITE'),
	(9, 3, 1, 0.5952380952380952, 'FINITE'),
	(10, 3, 2, 0.7049910873440286, 'FINITE'),
	(11, 3, 3, 0.8857142857142858, 'FINITE'),
	(12, 3, 4, 0.9440559440559441, 'FINITE'),
	(13, 4, 1, 0.3235294117647059, 'FINITE'),
	(14, 4, 2, 0.3235294117647059, 'FINITE'),
	(15, 4, 3, 0.4166666666666667, 'FINITE'),
	(16, 4, 4, 0.4166666666666667, 'FINITE'),
	(17, 5, 1, 0.3235294117647059, 'FINITE'),
	(18, 5, 2, 0.3235294117647059, 'FINITE'),
	(19, 5, 3, 0.3235294117647059, 'FINITE'),
	(20, 5, 4, 0.3235294117647059, 'FINITE'),
	(21, 6, 1, 0.3235294117647059, 'FINITE'),
	(22, 8, 1, 0.49259259259259264, 'FINITE'),
	(23, 8, 2, 0.6083333333333334, 'FINITE'),
	(24, 8, 3, 0.6083333333333334, 'FINITE'),
	(25, 10, 1, 0.3235294117647059, 'FINITE'),
	(26, 11, 1, 0.3235294117647059, 'FINITE'),
	(27, 12, 1, 0.3235294117647059, 'FINITE'),
	(28, 13, 1, 0.6083333333333334, 'FINITE'),
	(29, 13, 2, 0.6654456654456654, 'FINITE');
INSERT INTO public.trial_params VALUES
	(1, 1, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(2, 1, 'learning_rate', 0.001, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(3, 1, 'weight_decay', 0.01, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(4, 1, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(5, 1, 'warmup', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(6, 1, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(7, 2, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(8, 2, 'learning_rate', 0.008543040385549875, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(9, 2, 'weight_decay', 2.6191272849306222e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(10, 2, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(11, 2, 'warmup', 2, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(12, 2, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(13, 3, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(14, 3, 'learning_rate', 0.008892609580122678, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(15, 3, 'weight_decay', 0.029362968453161047, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(16, 3, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(17, 3, 'warmup', 3, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(18, 3, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(19, 4, 'optimizer', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(20, 4, 'learning_rate', 9.810247517920823e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(21, 4, 'weight_decay', 0.0029616705129254703, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(22, 4, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(23, 4, 'warmup', 3, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(24, 4, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(25, 5, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(26, 5, 'learning_rate', 1.0302582468821314e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(27, 5, 'weight_decay', 0.0010481381933316574, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(28, 5, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(29, 5, 'warmup', 2, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(30, 5, 'sampler', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(31, 6, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(32, 6, 'learning_rate', 2.12253858916729e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(33, 6, 'weight_decay', 2.248850534271779e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(34, 6, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(35, 6, 'warmup', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(36, 6, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(37, 7, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(38, 7, 'learning_rate', 0.00025815810725428074, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(39, 7, 'weight_decay', 0.004456562696211094, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(40, 7, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(41, 7, 'warmup', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(42, 7, 'sampler', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(43, 8, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(44, 8, 'learning_rate', 0.00025815810725428074, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(45, 8, 'weight_decay', 0.004456562696211094, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(46, 8, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(47, 8, 'warmup', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(48, 8, 'sampler', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(49, 9, 'optimizer', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(50, 9, 'learning_rate', 0.006949680062941532, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(51, 9, 'weight_decay', 0.009678803858980695, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(52, 9, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(53, 9, 'warmup', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(54, 9, 'sampler', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(55, 10, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(56, 10, 'learning_rate', 3.2991344867273014e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(57, 10, 'weight_decay', 0.002216708983465823, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(58, 10, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(59, 10, 'warmup', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(60, 10, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(61, 11, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(62, 11, 'learning_rate', 2.9668862880239528e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(63, 11, 'weight_decay', 0.007416942384922004, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(64, 11, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(65, 11, 'warmup', 2, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(66, 11, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(67, 12, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(68, 12, 'learning_rate', 4.059379885724294e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(69, 12, 'weight_decay', 2.5596654918458475e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(70, 12, 'clip_norm', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(71, 12, 'warmup', 3, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(72, 12, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}'),
	(73, 13, 'optimizer', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["adamw", "sgd"]}}'),
	(74, 13, 'learning_rate', 0.0019605179676884855, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.01, "log": true}}'),
	(75, 13, 'weight_decay', 1.6235324134321095e-05, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 1e-05, "high": 0.1, "log": true}}'),
	(76, 13, 'clip_norm', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 1.0]}}'),
	(77, 13, 'warmup', 2, '{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.05, 0.1, 0.2]}}'),
	(78, 13, 'sampler', 0, '{"name": "CategoricalDistribution", "attributes": {"choices": ["shuffle", "balanced"]}}');
INSERT INTO public.trial_system_attributes VALUES
	(1, 1, 'fixed_params', '{"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.01, "clip_norm": 0.0, "warmup": 0.05, "focal_gamma": 2.0, "label_smoothing": 0.1, "adjustment_tau": 1.0, "arcface_margin": 0.3, "arcface_scale": 16.0, "class_weights": "none", "effective_beta": 0.999, "sampler": "shuffle", "randaugment_ops": 2, "randaugment_magnitude": 9, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_probability": 1.0}'),
	(3, 2, 'hpo:made', '"036b1fd512f24482b1a5def366177949"'),
	(4, 2, 'artifacts:de76415ece2f41d484100558e9ebe488-3378d65a-9e9e-45d1-98ba-70d5daa7eaf6', '"{\"artifact_id\": \"de76415ece2f41d484100558e9ebe488-3378d65a-9e9e-45d1-98ba-70d5daa7eaf6\", \"filename\": \"weights.safetensors\", \"mimetype\": \"application/octet-stream\", \"encoding\": null}"'),
	(5, 3, 'hpo:made', '"2a6ec9cabb47413d8a1d525f2282a03a"'),
	(6, 3, 'artifacts:de76415ece2f41d484100558e9ebe488-4f2e3ab8-afbb-4c29-a967-ed4070379413', '"{\"artifact_id\": \"de76415ece2f41d484100558e9ebe488-4f2e3ab8-afbb-4c29-a967-ed4070379413\", \"filename\": \"weights.safetensors\", \"mimetype\": \"application/octet-stream\", \"encoding\": null}"'),
	(7, 4, 'hpo:made', '"f7c5aeb6347f46789af308b52e941027"'),
	(9, 5, 'hpo:made', '"24b80d5663b44dd9a58e68633f810be4"'),
	(11, 6, 'hpo:made', '"8c06648d21544576a35cad6084cc7c21"'),
	(12, 7, 'hpo:made', '"4798718859314217ac4ce917185578c7"'),
	(13, 8, 'hpo:made', '"4518b1520eeb438e971234ff821e193f"'),
	(14, 9, 'hpo:made', '"46db188d0ae54aaa8b5c76f174f4fd41"'),
	(15, 10, 'hpo:made', '"fec8f59dd6e84845b5f6d114f214338e"'),
	(16, 11, 'hpo:made', '"734db113d9aa462c84974bc933e54378"'),
	(17, 12, 'hpo:made', '"4c5dd94b21b74c0cbe2d041f3be7f9b3"'),
	(18, 13, 'hpo:made', '"cf7d9911a9474178bddd9d0e04474fb2"'),
	(19, 13, 'tpe:relative_params:0', '"{\"clip_norm\": 1.0, \"learning_rate\": 0.0019605179676884855, \"optimizer\": \"adamw\", \"sampler\": \"shuffle\", \"warmup\": 0.1, \"weight_decay\": 1.6235324134321095e-05}"'),
	(20, 14, 'fixed_params', '{"learning_rate": 0.003, "optimizer": "sgd"}');
INSERT INTO public.trial_user_attributes VALUES
	(1, 1, 'hpo:default_recipe', 'true'),
	(2, 1, 'host', '"host-a"'),
	(3, 1, 'device', '"cpu"'),
	(4, 1, 'threads', '1'),
	(5, 1, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-beac1508de0e495b97f99ddea662e0ac"'),
	(6, 1, 'best_epoch', '3'),
	(7, 1, 'metrics', '{"macro_f1": 0.611111111111111, "accuracy": 0.6111111111111112, "macro_precision": 0.6851851851851851, "macro_recall": 0.6111111111111112, "macro_roc_auc": 0.7407407407407408, "images": 18, "per_class": {"blue": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.6388888888888888, "images": 6}, "green": {"f1": 0.6666666666666666, "precision": 0.5555555555555556, "recall": 0.8333333333333334, "roc_auc": 0.75, "images": 6}, "red": {"f1": 0.6666666666666666, "precision": 1.0, "recall": 0.5, "roc_auc": 0.8333333333333334, "images": 6}}}'),
	(8, 2, 'host', '"host-a"'),
	(9, 2, 'device', '"cpu"'),
	(10, 2, 'threads', '1'),
	(11, 2, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-b7d152fbd72e48d1b1cef1db3e360f1a"'),
	(12, 2, 'best_epoch', '4'),
	(13, 2, 'metrics', '{"macro_f1": 0.9440559440559441, "accuracy": 0.9444444444444444, "macro_precision": 0.9523809523809524, "macro_recall": 0.9444444444444445, "macro_roc_auc": 1.0, "images": 18, "per_class": {"blue": {"f1": 0.9230769230769231, "precision": 0.8571428571428571, "recall": 1.0, "roc_auc": 1.0, "images": 6}, "green": {"f1": 1.0, "precision": 1.0, "recall": 1.0, "roc_auc": 1.0, "images": 6}, "red": {"f1": 0.9090909090909091, "precision": 1.0, "recall": 0.8333333333333334, "roc_auc": 1.0, "images": 6}}}'),
	(14, 3, 'host', '"host-a"'),
	(15, 3, 'device', '"cpu"'),
	(16, 3, 'threads', '1'),
	(17, 3, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-d617066f20894ac0a044d914ddb87ea2"'),
	(18, 3, 'best_epoch', '4'),
	(19, 3, 'metrics', '{"macro_f1": 0.9440559440559441, "accuracy": 0.9444444444444444, "macro_precision": 0.9523809523809524, "macro_recall": 0.9444444444444445, "macro_roc_auc": 1.0, "images": 18, "per_class": {"blue": {"f1": 0.9230769230769231, "precision": 0.8571428571428571, "recall": 1.0, "roc_auc": 1.0, "images": 6}, "green": {"f1": 1.0, "precision": 1.0, "recall": 1.0, "roc_auc": 1.0, "images": 6}, "red": {"f1": 0.9090909090909091, "precision": 1.0, "recall": 0.8333333333333334, "roc_auc": 1.0, "images": 6}}}'),
	(20, 4, 'host', '"host-a"'),
	(21, 4, 'device', '"cpu"'),
	(22, 4, 'threads', '1'),
	(23, 4, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-a47cde2161bd46489f1333cccecdab17"'),
	(24, 4, 'best_epoch', '3'),
	(25, 4, 'metrics', '{"macro_f1": 0.4166666666666667, "accuracy": 0.4444444444444444, "macro_precision": 0.4666666666666666, "macro_recall": 0.4444444444444444, "macro_roc_auc": 0.5092592592592592, "images": 18, "per_class": {"blue": {"f1": 0.25, "precision": 0.5, "recall": 0.16666666666666666, "roc_auc": 0.3472222222222222, "images": 6}, "green": {"f1": 0.5, "precision": 0.4, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(26, 5, 'host', '"host-a"'),
	(27, 5, 'device', '"cpu"'),
	(28, 5, 'threads', '1'),
	(29, 5, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-cbd871153fbb4b60b547386d85a71954"'),
	(30, 5, 'best_epoch', '1'),
	(31, 5, 'metrics', '{"macro_f1": 0.3235294117647059, "accuracy": 0.3888888888888889, "macro_precision": 0.2878787878787879, "macro_recall": 0.38888888888888884, "macro_roc_auc": 0.5046296296296297, "images": 18, "per_class": {"blue": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "roc_auc": 0.3333333333333333, "images": 6}, "green": {"f1": 0.47058823529411764, "precision": 0.36363636363636365, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(32, 6, 'host', '"host-a"'),
	(33, 6, 'device', '"cpu"'),
	(34, 6, 'threads', '1'),
	(35, 6, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-c74e5de416c740cfb5abefba6374b876"'),
	(36, 6, 'best_epoch', '1'),
	(37, 6, 'metrics', '{"macro_f1": 0.3235294117647059, "accuracy": 0.3888888888888889, "macro_precision": 0.2878787878787879, "macro_recall": 0.38888888888888884, "macro_roc_auc": 0.5046296296296297, "images": 18, "per_class": {"blue": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "roc_auc": 0.3333333333333333, "images": 6}, "green": {"f1": 0.47058823529411764, "precision": 0.36363636363636365, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(38, 7, 'host', '"host-a"'),
	(39, 7, 'device', '"cpu"'),
	(40, 7, 'threads', '1'),
	(41, 7, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-9751d5cb3eea4ddea37d2e708b98225c"'),
	(42, 7, 'reason', '"its worker died; run again as another trial"'),
	(43, 8, 'host', '"host-a"'),
	(44, 8, 'device', '"cpu"'),
	(46, 8, 'repeats', '6'),
	(47, 8, 'first_run', '6'),
	(48, 8, 'resumed_after_epoch', '1'),
	(45, 8, 'threads', '1'),
	(50, 8, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-c3860c09f8744f24867cd5dd9f6aaf81"'),
	(51, 8, 'best_epoch', '2'),
	(52, 8, 'metrics', '{"macro_f1": 0.6083333333333334, "accuracy": 0.6111111111111112, "macro_precision": 0.6666666666666666, "macro_recall": 0.6111111111111112, "macro_roc_auc": 0.5648148148148148, "images": 18, "per_class": {"blue": {"f1": 0.6, "precision": 0.75, "recall": 0.5, "roc_auc": 0.4027777777777778, "images": 6}, "green": {"f1": 0.625, "precision": 0.5, "recall": 0.8333333333333334, "roc_auc": 0.6666666666666666, "images": 6}, "red": {"f1": 0.6, "precision": 0.75, "recall": 0.5, "roc_auc": 0.625, "images": 6}}}'),
	(53, 9, 'host', '"host-a"'),
	(54, 9, 'device', '"cpu"'),
	(55, 9, 'threads', '1'),
	(56, 9, 'reason', '"ValueError: the loss had enough"'),
	(57, 10, 'host', '"host-a"'),
	(58, 10, 'device', '"cpu"'),
	(59, 10, 'threads', '1'),
	(60, 10, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-0374194ba66d4f1f956dd1683007f4bf"'),
	(61, 10, 'best_epoch', '1'),
	(62, 10, 'metrics', '{"macro_f1": 0.3235294117647059, "accuracy": 0.3888888888888889, "macro_precision": 0.2878787878787879, "macro_recall": 0.38888888888888884, "macro_roc_auc": 0.5046296296296297, "images": 18, "per_class": {"blue": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "roc_auc": 0.3333333333333333, "images": 6}, "green": {"f1": 0.47058823529411764, "precision": 0.36363636363636365, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(63, 11, 'host', '"host-a"'),
	(64, 11, 'device', '"cpu"'),
	(65, 11, 'threads', '1'),
	(66, 11, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-919d753a9ca6429ba75bbf350856dc51"'),
	(67, 11, 'best_epoch', '1'),
	(68, 11, 'metrics', '{"macro_f1": 0.3235294117647059, "accuracy": 0.3888888888888889, "macro_precision": 0.2878787878787879, "macro_recall": 0.38888888888888884, "macro_roc_auc": 0.5046296296296297, "images": 18, "per_class": {"blue": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "roc_auc": 0.3333333333333333, "images": 6}, "green": {"f1": 0.47058823529411764, "precision": 0.36363636363636365, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(69, 12, 'host', '"host-a"'),
	(70, 12, 'device', '"cpu"'),
	(71, 12, 'threads', '1'),
	(72, 12, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-2ccf154751104ec3957f0dcd246c6f99"'),
	(73, 12, 'best_epoch', '1'),
	(74, 12, 'metrics', '{"macro_f1": 0.3235294117647059, "accuracy": 0.3888888888888889, "macro_precision": 0.2878787878787879, "macro_recall": 0.38888888888888884, "macro_roc_auc": 0.5046296296296297, "images": 18, "per_class": {"blue": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "roc_auc": 0.3333333333333333, "images": 6}, "green": {"f1": 0.47058823529411764, "precision": 0.36363636363636365, "recall": 0.6666666666666666, "roc_auc": 0.6111111111111112, "images": 6}, "red": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "roc_auc": 0.5694444444444444, "images": 6}}}'),
	(75, 13, 'host', '"host-a"'),
	(76, 13, 'device', '"cpu"'),
	(77, 13, 'threads', '1'),
	(78, 13, 'checkpoint', '"de76415ece2f41d484100558e9ebe488-checkpoint-f112852ca4d14142aa8004854bf3e71e"'),
	(79, 13, 'reason', '"interrupted; run again as another trial"');
INSERT INTO public.trial_values VALUES
	(1, 1, 0, 0.611111111111111, 'FINITE'),
	(2, 2, 0, 0.9440559440559441, 'FINITE'),
	(3, 3, 0, 0.9440559440559441, 'FINITE'),
	(4, 4, 0, 0.4166666666666667, 'FINITE'),
	(5, 5, 0, 0.3235294117647059, 'FINITE'),
	(6, 6, 0, 0.3235294117647059, 'FINITE'),
	(7, 8, 0, 0.6083333333333334, 'FINITE'),
	(8, 10, 0, 0.3235294117647059, 'FINITE'),
	(9, 11, 0, 0.3235294117647059, 'FINITE'),
	(10, 12, 0, 0.3235294117647059, 'FINITE');
INSERT INTO public.trials VALUES
	(1, 0, 1, 'COMPLETE', '2026-11-28 01:59:48.765201', '2026-11-28 01:59:49.991585'),
	(2, 1, 1, 'COMPLETE', '2026-11-28 01:59:50.052032', '2026-11-28 01:59:50.275483'),
	(3, 2, 1, 'COMPLETE', '2026-11-28 01:59:50.310678', '2026-11-28 01:59:50.524774'),
	(4, 3, 1, 'COMPLETE', '2026-11-28 01:59:50.570673', '2026-11-28 01:59:50.829252'),
	(5, 4, 1, 'COMPLETE', '2026-11-28 01:59:50.866676', '2026-11-28 01:59:51.084809'),
	(6, 5, 1, 'PRUNED', '2026-11-28 01:59:51.126672', '2026-11-28 01:59:51.233823'),
	(7, 6, 1, 'FAIL', '2026-11-28 02:00:06.046952', '2026-11-28 02:00:22.389264'),
	(8, 7, 1, 'PRUNED', '2026-11-28 02:00:23.227558', '2026-11-28 02:00:24.799568'),
	(9, 8, 1, 'FAIL', '2026-11-28 02:00:56.838775', '2026-11-28 02:00:58.207423'),
	(10, 9, 1, 'PRUNED', '2026-11-28 02:01:46.443759', '2026-11-28 02:01:49.73987'),
	(11, 10, 1, 'PRUNED', '2026-11-28 02:01:49.850786', '2026-11-28 02:01:50.190128'),
	(12, 11, 1, 'PRUNED', '2026-11-28 02:01:50.250828', '2026-11-28 02:01:50.656186'),
	(13, 12, 1, 'FAIL', '2026-11-28 02:01:50.814739', '2026-11-28 02:01:51.62517'),
	(14, 13, 1, 'WAITING', NULL, NULL);
INSERT INTO public.version_info VALUES
	(1, 12, '5.0.0');
SELECT pg_catalog.setval('hpo.log_id_seq', 57, true);
SELECT pg_catalog.setval('public.studies_study_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 1, true);
SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 1, false);
SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 2, true);
SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);
SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 29, true);
SELECT pg_catalog.setval('public.trial_params_param_id_seq', 78, true);
SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 20, true);
SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 79, true);
SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 10, true);
SELECT pg_catalog.setval('public.trials_trial_id_seq', 14, true);
ALTER TABLE ONLY hpo.log
    ADD CONSTRAINT log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY hpo.place
    ADD CONSTRAINT place_pkey PRIMARY KEY (study_id, number);
ALTER TABLE ONLY hpo.worker
    ADD CONSTRAINT worker_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);
ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);
CREATE UNIQUE INDEX halt_in_force ON hpo.halt USING btree (study_id) WHERE (ended IS NULL);
CREATE INDEX log_trial ON hpo.log USING btree (study_id, trial, id);
CREATE INDEX place_ended ON hpo.place USING btree (study_id, ended);
CREATE INDEX place_open ON hpo.place USING btree (study_id, number) WHERE (state = ANY (ARRAY['running'::text, 'waiting'::text]));
CREATE INDEX place_trial ON hpo.place USING btree (study_id, trial);
CREATE INDEX place_worker ON hpo.place USING btree (worker) WHERE (state = 'running'::text);
CREATE INDEX worker_study ON hpo.worker USING btree (study_id);
CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);
CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);
ALTER TABLE ONLY hpo.halt
    ADD CONSTRAINT halt_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;
ALTER TABLE ONLY hpo.log
    ADD CONSTRAINT log_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;
ALTER TABLE ONLY hpo.place
    ADD CONSTRAINT place_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;
ALTER TABLE ONLY hpo.place
    ADD CONSTRAINT place_worker_fkey FOREIGN KEY (worker) REFERENCES hpo.worker(id) ON DELETE SET NULL;
ALTER TABLE ONLY hpo.worker
    ADD CONSTRAINT worker_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;
ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);
ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);
